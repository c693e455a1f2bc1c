"""The one network of all sandboxes: what runs in keeper's child ``nsbox-network``, within the network
namespace that the sandboxes' links end in. Mechanism and policy of packets; who may want what is decided in
``service``.

Standard library only, but for the set-up child, which uses pyroute2 (docs/adr/0041).
"""
