"""Schemas of the custom resources (KServe, KEDA) that docker/kubernetes uses.

Hand-written; unknown properties are errors. The names were checked against KServe 0.21 and KEDA 2.
"""

from __future__ import annotations

from typing import Any

QUERY = {"type": "string", "pattern": "nv_inference_queue_duration_us"}
BEHAVIOUR = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"scaleUp": {"type": "object"}, "scaleDown": {"type": "object"}},
}


def strict_object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {**required, **optional},
    }


COUNT, TEXT = {"type": "integer", "minimum": 1}, {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
HEADER = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}}
PREDICTOR = strict_object(
    {
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "autoScaling": strict_object(
            {
                "metrics": {
                    "type": "array",
                    "items": strict_object(
                        {
                            "type": {"const": "External"},
                            "external": strict_object(
                                {
                                    "metric": strict_object(
                                        {
                                            "backend": {"const": "prometheus"},
                                            "serverAddress": TEXT,
                                            "query": QUERY,
                                        }
                                    ),
                                    "target": strict_object(
                                        {"type": {"const": "Value"}, "value": TEXT}
                                    ),
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
SCALED_OBJECT = strict_object(
    {
        **HEADER,
        "spec": strict_object(
            {
                "scaleTargetRef": strict_object({"name": TEXT}),
                "minReplicaCount": COUNT,
                "maxReplicaCount": COUNT,
                "pollingInterval": COUNT,
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": strict_object(
                        {
                            "type": {"const": "prometheus"},
                            "metricType": {"const": "Value"},
                            "metadata": strict_object(
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
            advanced=strict_object(
                {"horizontalPodAutoscalerConfig": strict_object({"behavior": BEHAVIOUR})}
            ),
        ),
    }
)
