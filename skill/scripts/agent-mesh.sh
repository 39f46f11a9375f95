#!/bin/sh
exec agent-mesh "$@"
