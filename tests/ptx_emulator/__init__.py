"""Compiled Triton kernels, run from their PTX in NumPy: a test tool for machines without a card.

`memory` checks each access for bounds, alignment and races. `program` parses PTX and refuses an unknown opcode.
`arithmetic`, `transfers`, `tensor_cores` and, of 10.0, `tensor_transfers`, `tensor_products` and `mbarriers` are the
opcodes. `tensor_memory` is what these share. `block` runs one block at a time, and `launch` a grid. `removal` takes one
barrier, fence, commit or wait out of a kernel and says who notices.

The model: all threads of a block step together, and warps that diverge meet again before the next barrier. Two warps
are ordered by `bar.sync` alone, two threads of a warp by that or `bar.warp.sync`, and two blocks of a launch not at
all. A register of a wgmma is ordered by `wgmma.fence` and `wgmma.wait_group`. A copy by `cp.async` takes place when its
group is waited for. The approximate ex2 and division are exact here, and an fma of fp64 rounds twice. An access of a
byte or a half races as its whole word would.

On 10.0 a product is done for a warp once that warp has waited for its mbarrier, or another has and both have met at
`bar.sync`. What a product reads in shared memory, it reads when it is issued and when the first warp has waited. Loads
and stores of tensor memory are in flight until `tcgen05.wait`; their registers and cells are those of the issue. The
arrival of a commit comes as late as it may, the elected thread is the last of its warp, and allocated columns are the
last free ones. `bar.sync` and the wait for an mbarrier order tensor memory without a `tcgen05.fence`.
"""
