"""What no single field of a policy shows: the candidate and the samples. `gate_checks` has the gates.

Each check reads the plain document, looks only at what has the right type (the rest is already a mistake of its own)
and yields what it finds. So one run reports the mistakes of every kind at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from robustcheck.policy import gate_checks
from robustcheck.policy.schema import ModelSpec
from robustcheck.policy.tree import KeyPath, Mistake
from robustcheck.words import did_you_mean, listed, shown
