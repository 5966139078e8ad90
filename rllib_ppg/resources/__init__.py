"""Resources of a machine or cluster, and where the processes of a run go."""
