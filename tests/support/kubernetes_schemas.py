"""Schemas of what Kubernetes does not know by itself, as far as docker/kubernetes uses it.

Written by hand, closed: a property that is not named here is an error. The names were checked
against KServe 0.21 and KEDA 2.
"""

from __future__ import annotations

from typing import Any

QUERY = {"type": "string", "pattern": "nv_inference_queue_duration_us"}
BEHAVIOUR = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"scaleUp": {"type": "object"}, "scaleDown": {"type": "object"}},
}


def closed(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The schema of an object that has nothing but these properties."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {**required, **optional},
    }


COUNT, TEXT = {"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
HEADER = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}}
PREDICTOR = closed(
    {
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "autoScaling": closed(
            {
                "metrics": {
                    "type": "array",
                    "items": closed(
                        {
                            "type": {"const": "External"},
                            "external": closed(
                                {
                                    "metric": closed(
                                        {
                                            "backend": {"const": "prometheus"},
                                            "serverAddress": TEXT,
                                            "query": QUERY,
                                        }
                                    ),
                                    "target": closed({"type": {"const": "Value"}, "value": TEXT}),
                                }
                            ),
                        }
                    ),
                }
            },
            behavior=BEHAVIOUR,
        ),
        "labels": TEXTS,
        "annotations": TEXTS,
        "deploymentStrategy": {"type": "object"},
    }
)
SCALED_OBJECT = closed(
    {
        **HEADER,
        "spec": closed(
            {
                "scaleTargetRef": closed({"name": TEXT}),
                "minReplicaCount": COUNT,
                "maxReplicaCount": COUNT,
                "pollingInterval": COUNT,
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": closed(
                        {
                            "type": {"const": "prometheus"},
                            "metricType": {"const": "Value"},
                            "metadata": closed(
                                {
                                    "serverAddress": TEXT,
                                    "query": QUERY,
                                    "threshold": {"type": "string", "pattern": r"^[0-9.]+$"},
                                }
                            ),
                        }
                    ),
                },
            },
            advanced=closed({"horizontalPodAutoscalerConfig": closed({"behavior": BEHAVIOUR})}),
        ),
    }
)
