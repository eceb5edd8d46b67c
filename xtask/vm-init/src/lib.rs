//! What the host (`cargo xtask vm`) and the first process of its guests agree on: the plan that goes in and the frames
//! that come out. Must not touch files, devices or the clock.

pub mod frame;
pub mod plan;
