"""The loops that do the work, read from their disassembly: python hot_loops.py OBJDUMP PRODUCTS OBJECT...

The register tile of the fused kernel is a loop of PRODUCTS multiply-adds, each to a register of its own, and no vector on the
stack: a compiler that spills the accumulators halves the speed without any test noticing. Each object must have at least four
such loops: scores and values, whole tiles and those at an edge. Exit code 1 when one has fewer.
"""

import re
import subprocess
import sys

PRODUCT = re.compile(r"^(vfn?m(add|sub)|vdpbf16|fml[as])")
SUM = re.compile(r"%([xyz]mm\d+)$|^\S+\s+(v\d+)\.")
VECTOR_ON_STACK = r"%[xyz]mm\d+.*\(%{frame}|\(%{frame}.*%[xyz]mm|^(ld[rp]|st[rp])\s+[qdv]\d+.*\[sp"
JUMP = re.compile(r"^(j[a-z]+|b\.[a-z]+|cbn?z|tbn?z|b)\s.*?([0-9a-f]+) <")
LINE = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")


def functions(objdump, path):
    text = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    body = []
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            body.append((int(match[1], 16), match[2].split("#")[0].strip()))
        elif body:
            yield body
            body = []
    yield body


def loops(body):
    """Instructions between a backward jump and its target, innermost only: no other jump inside."""
    at = {address: i for i, (address, _) in enumerate(body)}
    for i, (_, instruction) in enumerate(body):
        jump = JUMP.match(instruction)
        start = at.get(int(jump[2], 16)) if jump else None
        if start is not None and start < i and not any(JUMP.match(text) for _, text in body[start:i]):
            yield [text for _, text in body[start:i]]


def main(objdump, products, *paths):
    wrong = False
    for path in paths:
        tiles = 0
        for body in functions(objdump, path):
            # the frame pointer is an ordinary register in most functions
            frame = "r[sb]p" if any("%rsp,%rbp" in text for _, text in body) else "rsp"
            on_stack = re.compile(VECTOR_ON_STACK.format(frame=frame))
            for loop in loops(body):
                sums = [SUM.search(text)[0] for text in loop if PRODUCT.match(text) and SUM.search(text)]
                whole = len(sums) == len(set(sums)) == int(products)
                tiles += whole and not any(on_stack.search(text) for text in loop)
        print(f"{path}: {tiles} register tiles of {products} multiply-adds")
        wrong |= tiles < 4
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
