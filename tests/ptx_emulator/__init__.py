"""Compiled Triton kernels, run from their PTX in NumPy: a test tool for machines without a card.

`memory` checks each access for bounds, alignment and races. `program` parses PTX and refuses an unknown opcode.
`arithmetic`, `transfers` and `tensor_cores` are the opcodes. `block` runs one block at a time, and `launch` a grid.
`removal` takes one barrier, fence, commit or wait out of a kernel and says who notices.

The model: all threads of a block step together, and warps that diverge meet again before the next barrier. Two warps
are ordered by `bar.sync` alone, two threads of a warp by that or `bar.warp.sync`, and two blocks of a launch not at
all. A register of a wgmma is ordered by `wgmma.fence` and `wgmma.wait_group`. A copy by `cp.async` takes place when its
group is waited for. The approximate ex2 and division are exact here, and an fma of fp64 rounds twice. An access of a
byte or a half races as its whole word would.
"""
