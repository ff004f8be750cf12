"""What many devices do, by simulation: the gateway's own placement, replication, pools and batchers, on a clock that
jumps from event to event, with service times that were measured."""
