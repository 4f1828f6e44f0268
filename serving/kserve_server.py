"""Serves an export with KServe's model server.

    python serving/kserve_server.py --saved_model=runs/demo/saved_model --http_port=8080

Answers the requests that TensorFlow Serving answers, at /v1/models/alexnet:predict. It
needs tensorflow and kserve, which wants an older protobuf than the rest of the project:
install both in an environment of their own. It needs no other file of the project.
"""

import argparse
import base64
import json

import kserve
import tensorflow as tf


class AlexNet(kserve.Model):
    """The signature `serving_default` of a SavedModel."""

    def __init__(self, saved_model: str):
        super().__init__("alexnet")
        self._model = tf.saved_model.load(saved_model)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None) -> dict:
        """Answers {"instances": [{"image_bytes": {"b64": …}}, …]}."""
        try:
            if isinstance(payload, bytes):  # sent without a content type
                payload = json.loads(payload)
            image_bytes = [
                base64.b64decode(instance["image_bytes"]["b64"], validate=True)
                for instance in payload["instances"]
            ]
            classify = self._model.signatures["serving_default"]
            answer = classify(image_bytes=tf.constant(image_bytes))
        except (KeyError, TypeError, ValueError, tf.errors.OpError) as error:
            raise kserve.errors.InvalidInput(str(error)) from None
        answer = {name: column.numpy().tolist() for name, column in answer.items()}
        answer["classes"] = [[c.decode() for c in row] for row in answer["classes"]]
        rows = zip(*answer.values(), strict=True)
        return {"predictions": [dict(zip(answer, row, strict=True)) for row in rows]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--saved_model", required=True, help="Directory of the export.")
    kserve.ModelServer().start([AlexNet(parser.parse_args().saved_model)])
