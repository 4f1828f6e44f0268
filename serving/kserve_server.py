"""Serves an export with KServe's model server.

    python serving/kserve_server.py --saved_model=runs/demo/saved_model --http_port=8080

Answers at /v1/models/alexnet:predict what TensorFlow Serving answers there, or says in
a sentence why not. Only this machine can ask, unless --host says otherwise. It needs
tensorflow and kserve, which wants an older protobuf than the rest of the project:
install both in an environment of their own. It needs no other file of the project.
"""

import argparse
import asyncio
import base64
import json
import re
import sys

try:
    import kserve
    import numpy as np
    import tensorflow as tf
    import uvicorn
except ModuleNotFoundError as error:
    sys.exit(
        f"error: there is no {error.name}: pip install -r serving/requirements.txt"
    )


class AlexNet(kserve.Model):
    """The signatures of a SavedModel, each with one input."""

    def __init__(self, saved_model: str):
        super().__init__("alexnet")
        self._model = tf.saved_model.load(saved_model)
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None) -> dict:
        """Answers {"instances": …} in rows and {"inputs": …} in columns."""
        try:  # in a thread: the server goes on answering others
            return await asyncio.to_thread(self._answer, payload)
        except tf.errors.OpError as error:
            said = re.search(r"assertion failed: \[(.*?)\]", error.message)
            reason = said[1] if said else " ".join(error.message.split())
        except RecursionError:
            reason = "the JSON is nested too deeply"
        except (TypeError, ValueError) as error:
            reason = str(error)
        raise kserve.errors.InvalidInput(reason)

    def _answer(self, payload) -> dict:
        if isinstance(payload, kserve.InferRequest):
            raise ValueError(
                "version 2 of the protocol is not answered: "
                'POST {"instances": …} to /v1/models/alexnet:predict'
            )
        if isinstance(payload, bytes):  # sent without a content type
            payload = json.loads(payload)
        if (
            not isinstance(payload, dict)
            or len({"instances", "inputs"} & {*payload}) != 1
        ):
            raise ValueError('expected an object with either "instances" or "inputs"')
        signature = payload.get("signature_name", "serving_default")
        if not isinstance(signature, str) or signature not in self._model.signatures:
            names = ", ".join(self._model.signatures)
            raise ValueError(f"there is no signature_name {signature!r}, only {names}")
        function = self._model.signatures[signature]
        ((name, spec),) = function.structured_input_signature[1].items()
        is_rows = "instances" in payload
        batch = find_rows(payload, name) if is_rows else find_column(payload, name)
        answer = function(**{name: make_tensor(batch, spec)})
        columns = {key: to_list(column) for key, column in answer.items()}
        if not is_rows:
            return {"outputs": unwrap(columns)}
        rows = zip(*columns.values(), strict=True)
        rows = [unwrap(dict(zip(columns, row, strict=True))) for row in rows]
        return {"predictions": rows}


def find_rows(payload: dict, name: str) -> list:
    """The values of the instances: each alone, or in an object by its name."""
    instances = payload["instances"]
    if not isinstance(instances, list) or not instances:
        raise ValueError('"instances" must be a list with at least one instance')

    def find(instance):
        if not isinstance(instance, dict) or instance.keys() == {"b64"}:
            return instance
        if instance.keys() != {name}:
            raise ValueError(f"expected instances with the one key {name!r}")
        return instance[name]

    return [find(instance) for instance in instances]


def find_column(payload: dict, name: str) -> list:
    """The values of the inputs: a list alone, or in an object by its name."""
    inputs = payload["inputs"]
    if isinstance(inputs, dict):
        if inputs.keys() != {name}:
            raise ValueError(f'expected "inputs" with the one key {name!r}')
        inputs = inputs[name]
    if not isinstance(inputs, list) or not inputs:
        raise ValueError('"inputs" must hold a list with at least one value')
    return inputs


def make_tensor(values: list, spec: tf.TensorSpec) -> tf.Tensor:
    """The tensor that the values are meant to be, or why they are not."""
    if spec.dtype == tf.string:
        values = [to_bytes(value) for value in values]
    try:
        if spec.dtype != tf.string:  # TensorFlow would take 300 for 44
            values = np.array(values)
            is_inside = (values >= spec.dtype.min) & (values <= spec.dtype.max)
            values = values if values.dtype.kind == "i" and is_inside.all() else None
        tensor = tf.constant(values, spec.dtype)
    except (TypeError, ValueError, OverflowError):
        tensor = None
    if tensor is None or not spec.shape.is_compatible_with(tensor.shape):
        raise ValueError(
            f"expected {spec.name}: {spec.dtype.name} of the shape {spec.shape}"
        )
    return tensor


def to_bytes(value) -> bytes:
    """The bytes of {"b64": …}, or of a text."""
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if not isinstance(value, dict) or value.keys() != {"b64"}:
        raise ValueError('expected {"b64": "…"} for each string of bytes')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f'what is in "b64" is not base64: {error}') from None


def to_list(column: tf.Tensor) -> list:
    """A tensor as JSON has it."""
    if column.dtype == tf.string:
        return [[text.decode() for text in row] for row in column.numpy().tolist()]
    return column.numpy().tolist()


def unwrap(outputs: dict):
    """A single output stands without its name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def main() -> None:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--saved_model", required=True, help="Directory of the export.")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all may ask.")
    flags = parser.parse_args()
    # KServe has no flag for it: it would listen to everybody.
    config = uvicorn.Config
    uvicorn.Config = lambda *args, **rest: config(*args, **rest | {"host": flags.host})
    kserve.ModelServer(enable_grpc=False).start([AlexNet(flags.saved_model)])


if __name__ == "__main__":
    main()
