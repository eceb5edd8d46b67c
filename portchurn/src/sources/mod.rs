//! Sources. Stub.
