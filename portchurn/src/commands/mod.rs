//! Commands. Stub.
