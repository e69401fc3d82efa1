//! Errors of the API as problem documents (RFC 9457).

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use streamlink_core::{ConfigError, ConfigErrors, Error, ErrorKind};
use utoipa::ToSchema;

/// Problem document (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Stable name of the class of the problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:streamlink:problem:invalid-configuration")]
    kind: String,
    /// Title of the class of the problem.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// The problem in words.
    detail: String,
    /// Errors of single fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// Seconds after which another attempt may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// Error of one field of what was sent.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Path of the field within the document that was sent, as in `sources[0].latency`; empty for the whole of it.
    path: String,
    /// The error in words.
    message: String,
}

impl Problem {
    fn new(status: StatusCode, name: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:streamlink:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Returns the problem of an answer that has only a status, and perhaps a text.
    pub(crate) fn of_status(status: StatusCode, detail: &str) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let name = title.to_lowercase().replace(' ', "-");
        Self::new(status, &name, title, if detail.is_empty() { title } else { detail })
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        let detail = format!("there is no {what} named `{name}`");
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Conflict with the present state", detail)
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed-request", "Malformed request", detail)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Authentication required", "log in first")
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>, retry_after: u64) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: Some(retry_after), ..Self::new(status, "unavailable", "Not available now", detail) }
    }

    pub(crate) fn too_many(detail: impl Into<String>, retry_after: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self { retry_after: Some(retry_after), ..Self::new(status, "too-many", "Too many requests", detail) }
    }

    /// Returns the problem of one field.
    pub(crate) fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        let error = FieldError { path: path.into(), message: message.into() };
        Self::invalid(vec![error])
    }

    /// Returns the problem of several fields.
    fn invalid(errors: Vec<FieldError>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let lines: Vec<String> = errors.iter().map(FieldError::sentence).collect();
        let problem = Self::new(status, "invalid-configuration", "Invalid configuration", lines.join("; "));
        Self { errors, ..problem }
    }

    /// Returns the errors of the library, with paths within what was sent: without `prefix`, that of the endpoint in its
    /// flow.
    pub(crate) fn config(errors: &ConfigErrors, prefix: &str) -> Self {
        Self::invalid(errors.iter().map(|error| FieldError::new(error, prefix)).collect())
    }

    /// Returns the problem of an error of the engine.
    pub(crate) fn engine(error: &Error, prefix: &str) -> Self {
        let (status, name, title) = match error.kind() {
            ErrorKind::InvalidConfig => match error {
                Error::Config(errors) => return Self::config(errors, prefix),
                _ => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-configuration", "Invalid configuration"),
            },
            ErrorKind::AddressInUse => (StatusCode::CONFLICT, "address-in-use", "Address in use"),
            ErrorKind::PermissionDenied => (StatusCode::CONFLICT, "permission-denied", "Permission denied"),
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            ErrorKind::AlreadyExists => (StatusCode::CONFLICT, "already-exists", "Already exists"),
            ErrorKind::Stopped => (StatusCode::CONFLICT, "stopped", "Stopped"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "system", "Refused by the operating system"),
        };
        let problem = Self::new(status, name, title, error.to_string());
        let errors = match error {
            Error::Claimed(errors) => errors.iter().map(|error| FieldError::new(error, prefix)).collect(),
            _ => Vec::new(),
        };
        Self { errors, ..problem }
    }

    /// Adds the error of a field to those of the problem.
    pub(crate) fn at(mut self, path: impl Into<String>, message: impl Into<String>) -> Self {
        self.errors.push(FieldError { path: path.into(), message: message.into() });
        self
    }

    /// Returns the problem with paths within an endpoint, whose place in the flow is `prefix`.
    pub(crate) fn within(mut self, prefix: &str) -> Self {
        for error in &mut self.errors {
            if let Some(rest) = error.path.strip_prefix(prefix) {
                error.path = rest.trim_start_matches('.').to_owned();
            }
        }
        self
    }

    #[cfg(test)]
    pub(crate) fn has_fields(&self) -> bool {
        !self.errors.is_empty()
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl FieldError {
    fn new(error: &ConfigError, prefix: &str) -> Self {
        let path = match error.path().strip_prefix(prefix) {
            Some(rest) if !prefix.is_empty() => rest.strip_prefix('.').unwrap_or(rest),
            _ => error.path(),
        };
        Self { path: path.to_owned(), message: error.kind().to_string() }
    }

    fn sentence(&self) -> String {
        if self.path.is_empty() { self.message.clone() } else { format!("{}: {}", self.path, self.message) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            // Without a realm of `Basic`: a browser would ask for a password in a window of its own.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
