"""A model for MLServer that gives back what it gets: the least work that server can do for a call."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Outputs are the inputs."""

    async def load(self) -> bool:
        """Nothing is needed."""
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Give the tensors back."""
        outputs = [ResponseOutput(**tensor.model_dump(exclude={"parameters"})) for tensor in payload.inputs]
        return InferenceResponse(model_name=self.name, outputs=outputs)
