//! Crashes of the process, of the machine and of the disk: what was acknowledged is at the sink or in the
//! dead-letter queue.
//!
//! - [`steps`]: killed, or failing, at each step that touches disk or network, in turn;
//! - [`moments`]: killed at any moment, for a minute;
//! - [`disks`]: the power goes, the disk is full or fails, memory is short.

pub mod disks;
pub mod load;
mod moments;
mod steps;
