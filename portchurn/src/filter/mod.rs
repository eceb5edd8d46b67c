//! The filter language. Stub.
