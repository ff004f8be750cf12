"""Every failure a caller can see, as one tree with stable codes. No HTTP here: one table at the edge maps
a type to its status (`gateway/web/errors.py`), and a test holds the table and the docs to this tree.

    GatewayError
    ├── InvalidRequest                 the request is wrong; sending it again changes nothing
    │   ├── InvalidJson                  invalid_json
    │   ├── InvalidBody                  invalid_body
    │   ├── InvalidHeader                invalid_header
    │   ├── InvalidHttp                  invalid_http
    │   ├── BodyTooSlow                  body_too_slow
    │   ├── InvalidModelId               invalid_model_id
    │   ├── InvalidAlias                 invalid_alias
    │   ├── InvalidInput                 invalid_input
    │   ├── EmptyInput                   empty_input
    │   ├── UnknownPrompt                unknown_prompt
    │   ├── InvalidDimensions            invalid_dimensions
    │   ├── WrongKind                    wrong_kind
    │   └── NoDefaultModel               no_default_model
    ├── NotAllowed                     who asks may not
    │   ├── Unauthenticated              unauthenticated
    │   ├── Forbidden                    forbidden
    │   └── ForeignOrigin                foreign_origin
    ├── TooLarge                       the request is over a limit that the operator set
    │   ├── BodyTooLarge                 body_too_large
    │   ├── TooManyInputs                too_many_inputs
    │   ├── TooManyTokens                too_many_tokens
    │   ├── InputTooLong                 input_too_long
    │   └── DocumentTooLarge             document_too_large
    ├── NotFound
    │   ├── RouteNotFound                route_not_found
    │   ├── MethodNotAllowed             method_not_allowed
    │   ├── ModelNotFound                model_not_found
    │   ├── GenerationNotFound           generation_not_found
    │   ├── RunNotFound                  run_not_found
    │   ├── KnowledgeBaseNotFound        knowledge_base_not_found
    │   └── DocumentNotFound             document_not_found
    ├── NotServable                    the model is on the volume, and may not be served as it lies there
    │   ├── ModelCopying                 model_copying
    │   ├── ModelRejected                model_rejected
    │   └── DoesNotFit                   model_does_not_fit
    ├── DocumentUnreadable               document_unreadable
    ├── LimitReached                   a key has used up what it may, for now
    │   ├── RateLimited                  rate_limited
    │   └── TooManyInFlight              too_many_in_flight
    ├── Overloaded                       overloaded
    ├── Unavailable                    try again after `retry_after` seconds
    │   ├── LoadFailed                   load_failed
    │   ├── ModelLoading                 model_loading
    │   ├── ModelQuarantined             model_quarantined
    │   ├── HostFailed                   host_failed
    │   ├── NodeStale                    node_stale
    │   ├── ModelPulling                 model_pulling
    │   ├── Starting                     starting
    │   └── ShuttingDown                 shutting_down
    ├── PullFailed                     a model could not be brought from a hub to the volume
    │   ├── HubOffline                   hub_offline
    │   ├── HubUnreachable               hub_unreachable
    │   ├── HubFailed                    hub_failed
    │   ├── HubForbids                   hub_forbids
    │   ├── HubModelNotFound             hub_model_not_found
    │   ├── HubRevisionNotFound          hub_revision_not_found
    │   ├── NothingToServe               nothing_to_serve
    │   ├── PullConflict                 pull_conflict
    │   ├── PullInProgress               pull_in_progress
    │   ├── PullInterrupted              pull_interrupted
    │   ├── VolumeFull                   volume_full
    │   └── VolumeUnwritable             volume_unwritable
    ├── AskFailed                      knowledge bases, and what is answered from them
    │   ├── AskUnavailable               ask_unavailable
    │   ├── KnowledgeBaseExists          knowledge_base_exists
    │   ├── KnowledgeDirUnsuitable       knowledge_dir_unsuitable
    │   ├── KnowledgeStoreFailed         knowledge_store_failed
    │   ├── IndexGone                    index_gone
    │   ├── WrongEmbeddingModel          wrong_embedding_model
    │   ├── KnowledgeBaseNotReady        knowledge_base_not_ready
    │   └── KnowledgeImportFailed        knowledge_import_failed
    ├── ProviderError                  who was asked for an answer, here or elsewhere, gave none
    │   ├── ProviderNotFound             provider_not_found
    │   ├── ProviderModelNotFound        provider_model_not_found
    │   ├── ProviderRefused              provider_refused
    │   ├── ProviderBusy                 provider_busy
    │   ├── ProviderUnavailable          provider_unavailable
    │   ├── ProviderFailed               provider_failed
    │   └── ProviderTimeout              provider_timeout
    ├── DeadlineExceeded                 deadline_exceeded
    └── Internal                         internal
"""

from __future__ import annotations

from typing import Any, ClassVar


class GatewayError(Exception):
    """A failure with a stable `code`, a message for a person, and facts for a program.

    `retry_after` is in seconds, and None where another try is of no use.
    """

    code: ClassVar[str] = ""

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.details = details


class InvalidRequest(GatewayError):
    pass


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class InvalidBody(InvalidRequest):
    code = "invalid_body"


class InvalidHeader(InvalidRequest):
    code = "invalid_header"


class InvalidHttp(InvalidRequest):
    code = "invalid_http"


class BodyTooSlow(InvalidRequest):
    code = "body_too_slow"


class InvalidModelId(InvalidRequest):
    code = "invalid_model_id"


class InvalidAlias(InvalidRequest):
    code = "invalid_alias"


class InvalidInput(InvalidRequest):
    code = "invalid_input"


class EmptyInput(InvalidRequest):
    code = "empty_input"


class UnknownPrompt(InvalidRequest):
    code = "unknown_prompt"


class InvalidDimensions(InvalidRequest):
    code = "invalid_dimensions"


class WrongKind(InvalidRequest):
    code = "wrong_kind"


class NoDefaultModel(InvalidRequest):
    code = "no_default_model"


class NotAllowed(GatewayError):
    pass


class Unauthenticated(NotAllowed):
    code = "unauthenticated"


class Forbidden(NotAllowed):
    code = "forbidden"


class ForeignOrigin(NotAllowed):
    code = "foreign_origin"


class TooLarge(GatewayError):
    pass


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class TooManyInputs(TooLarge):
    code = "too_many_inputs"


class TooManyTokens(TooLarge):
    code = "too_many_tokens"


class InputTooLong(TooLarge):
    code = "input_too_long"


class DocumentTooLarge(TooLarge):
    code = "document_too_large"


class NotFound(GatewayError):
    pass


class RouteNotFound(NotFound):
    code = "route_not_found"


class MethodNotAllowed(NotFound):
    code = "method_not_allowed"


class ModelNotFound(NotFound):
    code = "model_not_found"


class GenerationNotFound(NotFound):
    code = "generation_not_found"


class RunNotFound(NotFound):
    code = "run_not_found"


class KnowledgeBaseNotFound(NotFound):
    code = "knowledge_base_not_found"


class DocumentNotFound(NotFound):
    code = "document_not_found"


class NotServable(GatewayError):
    pass


class ModelCopying(NotServable):
    code = "model_copying"


class ModelRejected(NotServable):
    code = "model_rejected"


class DoesNotFit(NotServable):
    code = "model_does_not_fit"


class DocumentUnreadable(GatewayError):
    code = "document_unreadable"


class LimitReached(GatewayError):
    pass


class RateLimited(LimitReached):
    code = "rate_limited"


class TooManyInFlight(LimitReached):
    code = "too_many_in_flight"


class Overloaded(GatewayError):
    code = "overloaded"


class Unavailable(GatewayError):
    pass


class LoadFailed(Unavailable):
    code = "load_failed"


class ModelLoading(Unavailable):
    code = "model_loading"


class ModelQuarantined(Unavailable):
    code = "model_quarantined"


class HostFailed(Unavailable):
    code = "host_failed"


class NodeStale(Unavailable):
    code = "node_stale"


class ModelPulling(Unavailable):
    code = "model_pulling"


class Starting(Unavailable):
    code = "starting"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class PullFailed(GatewayError):
    pass


class HubOffline(PullFailed):
    code = "hub_offline"


class HubUnreachable(PullFailed):
    code = "hub_unreachable"


class HubFailed(PullFailed):
    code = "hub_failed"


class HubForbids(PullFailed):
    code = "hub_forbids"


class HubModelNotFound(PullFailed):
    code = "hub_model_not_found"


class HubRevisionNotFound(PullFailed):
    code = "hub_revision_not_found"


class NothingToServe(PullFailed):
    code = "nothing_to_serve"


class PullConflict(PullFailed):
    code = "pull_conflict"


class PullInProgress(PullFailed):
    code = "pull_in_progress"


class PullInterrupted(PullFailed):
    code = "pull_interrupted"


class VolumeFull(PullFailed):
    code = "volume_full"


class VolumeUnwritable(PullFailed):
    code = "volume_unwritable"


class AskFailed(GatewayError):
    pass


class AskUnavailable(AskFailed):
    code = "ask_unavailable"


class KnowledgeBaseExists(AskFailed):
    code = "knowledge_base_exists"


class KnowledgeDirUnsuitable(AskFailed):
    code = "knowledge_dir_unsuitable"


class KnowledgeStoreFailed(AskFailed):
    code = "knowledge_store_failed"


class IndexGone(AskFailed):
    code = "index_gone"


class WrongEmbeddingModel(AskFailed):
    code = "wrong_embedding_model"


class KnowledgeBaseNotReady(AskFailed):
    code = "knowledge_base_not_ready"


class KnowledgeImportFailed(AskFailed):
    code = "knowledge_import_failed"


class ProviderError(GatewayError):
    pass


class ProviderNotFound(ProviderError):
    code = "provider_not_found"


class ProviderModelNotFound(ProviderError):
    code = "provider_model_not_found"


class ProviderRefused(ProviderError):
    code = "provider_refused"


class ProviderBusy(ProviderError):
    code = "provider_busy"


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"


class ProviderFailed(ProviderError):
    code = "provider_failed"


class ProviderTimeout(ProviderError):
    code = "provider_timeout"


class DeadlineExceeded(GatewayError):
    code = "deadline_exceeded"


class Internal(GatewayError):
    code = "internal"


def leaves(tree: type[GatewayError] = GatewayError) -> dict[str, type[GatewayError]]:
    """Code -> type, for every error that can be raised."""
    found = {tree.code: tree} if tree.code else {}
    for child in tree.__subclasses__():
        found |= leaves(child)
    return found
