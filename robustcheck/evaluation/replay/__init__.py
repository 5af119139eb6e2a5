"""Shows a report's counterexamples to the candidate again (`replaying`), and counts again what the report counted
(`recounting`)."""
