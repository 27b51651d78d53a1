//! Whatever a peer says, in any bytes: an answer or an error, never a panic, and nothing lost of
//! what it said before it went wrong.

mod message;
mod queue;
mod record;
mod ring;
mod wire;
