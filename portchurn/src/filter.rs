//! Stub.
use crate::model::row::Row;
/// Stub.
#[derive(Clone, Debug)]
pub struct Filter(String);
/// Stub.
#[derive(Debug)]
pub struct FilterError { pub offset: usize, pub message: String }
impl std::fmt::Display for FilterError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.message) } }
impl Filter {
    /// Stub.
    pub fn parse(text: &str) -> Result<Self, FilterError> { Ok(Self(text.into())) }
    /// Stub.
    pub fn text(&self) -> &str { &self.0 }
    /// Stub.
    pub fn matches(&self, row: &Row<'_>) -> bool { row.program.contains(&self.0) }
}
