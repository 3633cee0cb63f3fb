"""A planned job in front of servers that somebody runs already: OpenAI's API over HTTP.

`endpoint_options` says which servers, `endpoint_engine` looks like an engine, `endpoint_run` is the
run. `line_dealer` knows which server has which lines, in the order of the plan; `concurrency` how
many at a time; `endpoint_server` sends one and `endpoint_answers` judges what came back.
"""

from shoal.endpoints.endpoint_options import EndpointOptions
from shoal.endpoints.line_source import SendsLines

__all__ = ["EndpointOptions", "SendsLines"]
