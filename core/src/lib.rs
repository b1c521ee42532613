//! The decisions of shardkeeper, without I/O: what a spec means, which partitions it makes, where they live.
