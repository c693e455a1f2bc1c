"""What keeper, which starts pasta, and the network's process, which routes to it, have to agree on."""

#: The interface that pasta makes in the network namespace.
INTERFACE = "ext0"
#: Where pasta listens for questions to the host's own resolver. Nobody else uses TEST-NET-1's last.
FORWARDER = "192.0.2.254"
#: Of pasta's interface and of every sandbox's link: bytes (docs/adr/0048).
MTU = 32_768
