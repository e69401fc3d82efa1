//! Local end of the sockets of one endpoint: its own settings, before those of its region.

use crate::{
    flow::{Listen, LocalEnd},
    net::Egress,
};
use std::sync::Arc;

/// Returns the local end of an endpoint. Address and interface of the endpoint take precedence over the region's.
pub(crate) fn local_egress(local: &LocalEnd, region: Egress) -> Egress {
    Egress {
        address: local.address.or(region.address),
        port: local.port,
        interface: local.interface.as_ref().map(ToString::to_string).or(region.interface),
        dscp: local.dscp,
        congestion: local.congestion.clone(),
    }
}

/// Returns the code point and congestion control of the connections of a listener.
pub(crate) fn listener_egress(listen: &Listen) -> Arc<Egress> {
    Arc::new(Egress { dscp: listen.dscp, congestion: listen.congestion.clone(), ..Egress::default() })
}
