"""Where the clouds answer: the address of Bedrock in a region, of Vertex AI in a location.

Knows names of hosts only. A region or location stands in a host's name, so whoever calls has checked its letters.
"""

from __future__ import annotations


def bedrock_url(region: str) -> str:
    """Source: https://docs.aws.amazon.com/general/latest/gr/bedrock.html"""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{domain}"


def vertex_url(location: str) -> str:
    """One location, all of them (`global`), or a multi-region (`us`, `eu`).

    Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/learn/locations
    """
    if location == "global":
        return "https://aiplatform.googleapis.com/v1"
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com/v1"
    return f"https://{location}-aiplatform.googleapis.com/v1"
