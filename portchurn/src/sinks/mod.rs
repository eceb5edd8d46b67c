//! Outputs. Stub.
