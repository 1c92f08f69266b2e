"""Control calls to other instances."""

from modelmesh.adapters.peers.grpc_peers import GrpcPeers, PeerCertificates, model_history, peer_answer

__all__ = ["GrpcPeers", "PeerCertificates", "model_history", "peer_answer"]
