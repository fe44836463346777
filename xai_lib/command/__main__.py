from xai_lib.command import main

main()
