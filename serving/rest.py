"""TensorFlow Serving's REST forms: what a request in JSON asks, and its answer.

tensorflow.org/tfx/serving/api_rest describes them: `instances` by rows, `inputs` by
columns, `signature_name`, and {"b64": …} for bytes.
"""

import base64
import json

import numpy as np
from starlette.exceptions import HTTPException

from alexnet_tf.export.saved_model import MAX_BATCH_SIZE
from alexnet_tf.exported import ExportedModel

_MAX_VALUES = 2**21  # half a second of reading, in which nobody else is answered


def parse(body: bytes, model: ExportedModel) -> tuple[str, list, bool]:
    """Reads a request; what it does not fulfil is answered by 400, or 413.

    Returns:
        The name of the signature, a value for each row, and whether columns are to be
        answered.
    """
    if body.count(b",") > _MAX_VALUES:  # each value but the first follows a comma
        reason = f"JSON has at most {_MAX_VALUES:,} values: send picture files as b64"
        raise HTTPException(413, reason)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        reason = "the body is no JSON, nor said to be a picture (image/jpeg)"
        raise HTTPException(400, reason) from None
    keys = {"instances", "inputs"} & {*content} if isinstance(content, dict) else set()
    if len(keys) != 1:
        raise HTTPException(400, 'expected {"instances": …} or {"inputs": …}')
    signature = content.get("signature_name", "serving_default")
    if signature not in model.signatures:
        raise HTTPException(400, f"expected a signature of {model.signatures}")
    name, is_columns = model.input_of(signature), "inputs" in content
    inputs = content[keys.pop()]
    if is_columns and isinstance(inputs, dict) and {*inputs} == {name}:
        inputs = inputs[name]
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_BATCH_SIZE:
        raise HTTPException(400, f"expected a list of 1 to {MAX_BATCH_SIZE} inputs")
    is_named = [isinstance(row, dict) and {*row} == {name} for row in inputs]
    rows = [
        r[name] if is_one else r for r, is_one in zip(inputs, is_named, strict=True)
    ]
    return signature, rows, is_columns


def to_files(inputs: list) -> list[bytes]:
    """The bytes behind {"b64": …}; a text stands for its own."""
    files = []
    for value in inputs:
        try:
            if isinstance(value, dict) and {*value} == {"b64"}:
                files.append(base64.b64decode(value["b64"], validate=True))
            else:
                files.append(value.encode())
        except (AttributeError, TypeError, ValueError):
            raise HTTPException(400, 'expected {"b64": …} in base64') from None
    return files


def to_images(inputs: list) -> np.ndarray:
    """The pixels of pictures of one size, uint8 `(batch, height, width, 3)`."""
    try:
        values = np.array(inputs, np.float64)  # of texts it makes no array of texts
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(0)
    if values.ndim != 4 or values.shape[3] != 3:
        raise HTTPException(400, "images have the shape (batch, height, width, 3)")
    if not ((values >= 0) & (values <= 255) & (values == np.floor(values))).all():
        raise HTTPException(400, "images are whole numbers 0..255")
    return values.astype(np.uint8)


def to_answer(columns: dict[str, np.ndarray], is_columns: bool) -> dict:
    """The body of an answer."""
    columns = {name: to_lists(values) for name, values in columns.items()}
    if is_columns:
        return {"outputs": columns}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def to_lists(values: np.ndarray) -> list:
    """Lists of numbers and texts; bytes of any kind become text."""
    if values.dtype != object:
        return values.tolist()
    flat = [value.decode(errors="replace") for value in values.ravel()]
    return np.array(flat, object).reshape(values.shape).tolist()
