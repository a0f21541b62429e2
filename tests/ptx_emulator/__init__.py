"""Compiled Triton kernels, run from their PTX in NumPy: a test tool for machines without a card.

`memory` checks each access for bounds, alignment and races. `program` parses PTX and refuses an unknown opcode.
`arithmetic`, `transfers` and `tensor_cores` are the opcodes. `block` runs one block at a time, and `launch` a grid.

The model: all threads of a block step together, and warps that diverge meet again before the next barrier. The threads
of a warp count as ordered. Two warps are ordered by `bar.sync` alone, and two blocks of a launch not at all. A copy by
`cp.async` takes place when its group is waited for. The approximate ex2 and division are exact here, and an fma of fp64
rounds twice. An access of a byte or a half races as its whole word would.
"""
