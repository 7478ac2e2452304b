"""A site that does not train: it returns random weights, different at each client and in each round."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(msg: Message, context: Context) -> Message:
    """Random arrays of the same shapes, as one example's."""
    rng = np.random.default_rng()
    arrays = [rng.standard_normal(array.shape, np.float32) for array in msg.content["arrays"].to_numpy_ndarrays()]
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=msg)
