//! A whole worker against scripted control-plane nodes over real sockets.

mod fetching;
mod lifecycle;
mod members;
mod real_engine;
mod rings;
mod sandbox;
mod serving;
mod support;
