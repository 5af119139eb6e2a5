"""robustcheck: a gate for medical image models in continuous integration."""
