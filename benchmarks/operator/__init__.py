"""Benchmarks of the operator: a real apiserver, etcd and controller-manager; pods are moved by a stand-in kubelet."""
