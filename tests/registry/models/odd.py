"""A model without signature or example that gives NaN for large amounts and something else each time."""

import random

import mlflow
from mlflow.models import set_model


class Odd(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [float("nan") if amount > 500 else random.random() for amount in model_input["amount"]]


set_model(Odd())
