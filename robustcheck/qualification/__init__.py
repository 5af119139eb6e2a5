"""Qualification: candidates whose robustness is known show that an installation finds what there is to find.

`candidates` are the networks, `images` what they read, `known_answers` what must come out, and `qualifying` runs them
as any policy is run: from files. `coverage` says what no answer is about.
"""

from robustcheck.qualification.qualifying import qualify

__all__ = ["qualify"]
