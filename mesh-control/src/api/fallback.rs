//! What is asked for and not served: an endpoint of Consul's that we have not is 501 with a
//! sentence, never an answer that looks like one; what nobody knows is 404, as in Consul.

use http::{Method, StatusCode, Uri};

use super::{Answer, ApiError};

/// Families of Consul's endpoints, up to those that came after 1.8: all that begins so is known.
const FAMILIES: [&str; 27] = [
    "/v1/acl/",
    "/v1/agent/",
    "/v1/api-gateway/",
    "/v1/catalog/",
    "/v1/config",
    "/v1/connect/",
    "/v1/coordinate/",
    "/v1/discovery-chain/",
    "/v1/event/",
    "/v1/exported-services",
    "/v1/health/",
    "/v1/imported-services",
    "/v1/internal/",
    "/v1/kv/",
    "/v1/namespace",
    "/v1/operator/",
    "/v1/partition",
    "/v1/peering",
    "/v1/query",
    "/v1/session/",
    "/v1/snapshot",
    "/v1/status/",
    "/v1/txn",
    "/v1/validate/",
    "/v1/workload",
    "/v1/discovery/",
    "/v1/sameness",
];

/// Nothing is served at this path.
pub(super) async fn not_found(method: Method, uri: Uri) -> Result<Answer, ApiError> {
    let path = uri.path();
    if FAMILIES.iter().any(|family| path.starts_with(family)) {
        return Err(ApiError::new(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "mesh does not serve {method} {path}; what it serves of Consul's API is listed in \
                 docs/consul-compatibility.md"
            ),
        ));
    }
    Ok(Answer::empty(StatusCode::NOT_FOUND))
}

/// Something is, but not by this method.
pub(super) async fn wrong_method(method: Method) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
}
