//! What is said to OpenExec, and what is signed.
//!
//! For programs that approve actions or check receipts, and for the server itself: both must agree on every byte.
//! There is no I/O here, no clock and no HTTP. Time, keys and limits come in as arguments.
//!
//! In the order in which a request meets them:
//!
//! - [`request`]: the body of `POST /execute`, read strictly, with its [`ActionHash`](approval::ActionHash)
//! - [`canonical`]: the one spelling of a JSON value, which is what gets hashed
//! - [`approval`]: artifacts, how they are minted, and the proof that one was verified
//! - [`receipt`]: the hash that binds a result to its execution
//! - [`refusal`]: the closed set of reasons for a no
//!
//! An approver reads what it is asked to approve, decides, and signs:
//!
//! ```
//! use openexec_protocol::approval::{self, HmacKey, Terms};
//! use openexec_protocol::canonical::Limits;
//! use openexec_protocol::request::Request;
//!
//! let body = br#"{"action": "echo", "payload": {"msg": "hello"}, "nonce": "n-1"}"#;
//! let request = Request::parse(body, Limits::default())?;
//! let artifact = approval::mint(
//!     &HmacKey::new(b"test-secret-key"),
//!     request.action_hash(),
//!     &Terms { approval_id: "approval-1", tenant_id: "tenant-001", issued_at: "2026-02-17T10:08:22Z", kid: None },
//! )?;
//! assert!(artifact.to_json().contains(r#""approval_id":"approval-1""#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod approval;
pub mod canonical;
mod number;
mod reader;
pub mod receipt;
pub mod refusal;
pub mod request;
pub mod timestamp;
