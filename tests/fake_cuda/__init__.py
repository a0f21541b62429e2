"""A CUDA without a card, for the host's logic: streams, events, graphs and pinned memory in adversarial orders.

Under `pretend`, tensors on "cuda" hold their numbers on the CPU. Every operation on them is put into the queue of the
current stream and runs later, at a time that an `Order` chooses: as late as it may, at random, or one stream ahead of
all others. What was not written yet holds NaN, or the least integer. So a missing wait shows as a wrong number.

`card` has streams, events, graphs and the orders; `tensors` has the tensors.

The model: a stream runs its queue in order, and streams know nothing of each other but what events and waits say. A
copy from ordinary memory reads it at once; one from pinned memory, not blocking, reads it when it runs. Memory that is
freed is overwritten in the order of the stream that it was allocated on, as by the next allocation there, unless
`record_stream` names a further stream to wait for. While a graph is captured, waiting for the card is an error.
"""

from fake_cuda.card import Card, Order, Stream, eager, favouring, late, randomly
from fake_cuda.tensors import pretend

__all__ = ["Card", "Order", "Stream", "eager", "favouring", "late", "pretend", "randomly"]
