package main

import (
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the client metrics in /metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // the version metric in /metrics
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// runAPIServer is kube-apiserver with all its flags.
func runAPIServer() int {
	return cli.Run(app.NewAPIServerCommand())
}
