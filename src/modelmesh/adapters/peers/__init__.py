"""Control calls to other instances."""

from modelmesh.adapters.peers.grpc_peers import (
    GrpcPeers,
    PeerCertificates,
    model_history,
    peer_answer,
    peer_counts,
    peer_usage,
)

__all__ = ["GrpcPeers", "PeerCertificates", "model_history", "peer_answer", "peer_counts", "peer_usage"]
