import json
import math

from eet.metrics import json_values


def test_what_json_does_not_have_is_null() -> None:
    values = {"encoded": {"mAP": 0.5, "P@1": math.nan, "queries": 3}, "history": [(1.0, math.inf), {"loss": -math.inf, "name": "a"}]}
    text = json.dumps(json_values(values), allow_nan=False)
    assert json.loads(text) == {"encoded": {"mAP": 0.5, "P@1": None, "queries": 3}, "history": [[1.0, None], {"loss": None, "name": "a"}]}
