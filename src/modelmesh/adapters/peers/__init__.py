"""Control calls to other instances."""

from modelmesh.adapters.peers.grpc_peers import GrpcPeers, PeerCertificates, peer_answer, recollection

__all__ = ["GrpcPeers", "PeerCertificates", "peer_answer", "recollection"]
