"""A foreign model from code: repeats the question after a greeting from its configuration."""

import mlflow
from mlflow.models import set_model


class Echo(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.config = context.model_config

    def predict(self, context, model_input, params=None):
        return {"answer": f"{self.config['greeting']}: {model_input['messages'][-1]['content']}"}


set_model(Echo())
