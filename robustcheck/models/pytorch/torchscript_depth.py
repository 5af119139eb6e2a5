"""How deeply the source of a TorchScript archive is nested.

torch's parser and compiler call themselves for each bracket and each operator of an expression, and beyond some
thousands the process ends without a message. What torch.jit.save writes stays far below: it names what does not fit on
a line.
"""

from __future__ import annotations

import re

MOST_NESTED = 1_000
_MOST_INDENT = 2 * MOST_NESTED  # letters: of blocks in blocks
_STEPS = re.compile(
    r"\\\n|^[ \t]+|[(\[{]|[)\]}]|[,;\n]|[-+*/%@&|^~<>=!]|\.(?=\s*[A-Za-z_])|\b(?:and|or|not|if|else|in|is)\b",
    re.MULTILINE,
)
_CHAINED = re.compile(r"\belif\b")  # each is inside the one before


def is_nested_too_deeply(code: str) -> bool:
    """Whether an expression, or a block, is nested more deeply than `MOST_NESTED`.

    Args:
        code: without strings, in which brackets mean nothing.
    """
    if len(_CHAINED.findall(code)) > MOST_NESTED:
        return True
    around = list[int]()  # for each open bracket the operators before it, since the last comma
    here = depth = 0  # such operators in the innermost bracket, and in all of them
    for match in _STEPS.finditer(re.sub(r"#[^\n]*", "", code)):
        step = match[0]
        if step[0] in " \t":
            if len(step) > _MOST_INDENT:
                return True
        elif step in ",;" or (step == "\n" and not around):
            depth, here = depth - here, 0
        elif step in "([{":
            around.append(here + 1)
            depth, here = depth + 1, 0
        elif step in ")]}":
            depth, here = depth - here, around.pop() if around else 0
        elif step[0] not in "\\\n":
            depth, here = depth + 1, here + 1
        if depth > MOST_NESTED:
            return True
    return False
