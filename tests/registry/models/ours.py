"""A chain of the contract's shape inside a pyfunc: it must come out as it is."""

import mlflow
from mlflow.models import set_model

from llmops.core.chain import Delta, Done, Retrieval, Usage


class Ours(mlflow.pyfunc.PythonModel):
    def __init__(self):
        self.version_info = {"model": "ours"}

    def load_context(self, context):
        self.state = context.model_config["state"]

    def predict(self, context, model_input, params=None):
        return "unused"

    def stream(self, messages, context):
        yield Retrieval((), "g", 1)
        yield Delta(str(self.state["dir"]))
        yield Done(Usage(), False, "g", 1)

    def passage(self, ref, principal):
        raise NotImplementedError

    def close(self):
        pass


set_model(Ours())
