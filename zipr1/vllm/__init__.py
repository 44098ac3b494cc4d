"""Serving in vLLM: the token-sparse prefill behind vLLM's own extension points.

In a layer, a sparse prompt is a shorter sequence: its kept tokens lie at the front of the request's
own KV blocks, and vLLM's stock attention kernel gets query and sequence lengths of that layer. How
many tokens a request lacks is stored per layer and KV block, so that decoding needs no request.

request -> guard, connector (scheduler) -> messages -> connector (worker) -> steps, attention
"""
