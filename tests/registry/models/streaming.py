"""A foreign agent in MLflow's Responses format, which streams."""

from mlflow.models import set_model
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent


class Agent(ResponsesAgent):
    def predict(self, request):
        item = self.create_text_output_item(text="one two", id="1")
        return ResponsesAgentResponse(output=[item])

    def predict_stream(self, request):
        if request.input[-1].content == "fail":
            raise ValueError("broken agent")
        for word in ("one ", "two"):
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=word, item_id="1"))
        item = self.create_text_output_item(text="one two", id="1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)


set_model(Agent())
