"""The small chain as a model from code, so that it goes through the registry like any other."""

import mlflow
from mlflow.models import set_model
from tests.support.chain import SmallChain


class Packaged(mlflow.pyfunc.PythonModel, SmallChain):
    def __init__(self):
        SmallChain.__init__(self)

    def predict(self, context, model_input, params=None):
        raise NotImplementedError("this chain answers in conversations only")


set_model(Packaged())
