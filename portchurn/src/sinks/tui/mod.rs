//! The screen. Stub.
