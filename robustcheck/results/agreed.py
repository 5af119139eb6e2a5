"""What code that writes results and code that shows them have to agree on, apart from the results themselves."""

from __future__ import annotations

# --- in the folder of a report ---
COUNTEREXAMPLES = "counterexamples"  # the folder of all images
CLEAN, PATCHES = "clean", "patches"  # the folders in it for clean images and for patches
EXAMPLES_A_GATE = 6  # counterexamples whose clean images are kept, and that the page shows

# --- in results ---
WORST_SUBGROUP, WORST_FINDING = "worst_subgroup", "worst_finding"  # before a metric's name, and a dot
SET_BY_A_GRID = ("scale", "perspective")  # conditions that distances and angles set
