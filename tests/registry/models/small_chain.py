"""The tests' small chain inside a pyfunc; its configuration takes documents away, moves the index, or breaks rules."""

from dataclasses import replace

import mlflow
from mlflow.models import set_model
from tests.support.chain import TEXTS, SmallChain

from llmops.core.chain import Citation, Done, Retrieval


class Small(mlflow.pyfunc.PythonModel):
    def __init__(self):
        self.version_info = {"model": "small"}
        self.asked = 0

    def load_context(self, context):
        self.config = context.model_config
        self.chain = SmallChain([text for text in TEXTS if text.uri not in self.config.get("without", [])])

    def predict(self, context, model_input, params=None):
        return "unused"

    def stream(self, messages, context):
        self.asked += 1
        seq = self.config.get("seq", 12) + (self.asked if self.config.get("moving") else 0)
        for event in self.chain.stream(messages, context):
            if isinstance(event, Retrieval | Done):
                event = replace(event, index_seq=seq)  # noqa: PLW2901
            if isinstance(event, Citation) and self.config.get("untrue"):
                event = replace(event, text="what no document says")  # noqa: PLW2901
            if not (isinstance(event, Done) and self.config.get("endless")):
                yield event

    def passage(self, ref, principal):
        return self.chain.passage(ref, principal)

    def close(self):
        self.chain.close()


set_model(Small())
