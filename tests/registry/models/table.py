"""A classic model: doubles every number."""

import mlflow
from mlflow.models import set_model


class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [2 * value for value in model_input]


set_model(Double())
